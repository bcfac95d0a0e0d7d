"""What `learnopt fewshot` runs: learners with their settings, the tasks they meet, and what was published."""
