"""The steps of Transformers' training in native PyTorch, in words of our own; a small model instead of a download.

https://huggingface.co/docs/transformers/v4.57.1/training#train-in-native-pytorch
"""

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, get_scheduler

generator = torch.Generator().manual_seed(0)
tokens = torch.randint(1, 50, (256, 16), generator=generator)
rows = [{"input_ids": t, "attention_mask": torch.ones_like(t), "labels": t[:8].sum() % 400 // 80} for t in tokens]
train_dataloader = DataLoader(rows, shuffle=True, batch_size=32)
config = AutoConfig.for_model(
    "bert", vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=16, num_labels=5,
)  # fmt: skip
model = AutoModelForSequenceClassification.from_config(config)
optimizer = AdamW(model.parameters(), lr=5e-5)

num_epochs = 10
num_training_steps = num_epochs * len(train_dataloader)
lr_scheduler = get_scheduler(
    name="linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=num_training_steps
)
device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
model.to(device)
progress_bar = tqdm(range(num_training_steps), disable=None)
model.train()
for _ in range(num_epochs):
    for batch in train_dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()

        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        progress_bar.update(1)
