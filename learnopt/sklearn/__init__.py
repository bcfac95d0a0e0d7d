"""scikit-learn estimators: multi-layer perceptrons trained by `LearnedOptimizer`, with no learning rate to set."""

from learnopt.sklearn.estimators import LearnedMLPClassifier, LearnedMLPRegressor

__all__ = ["LearnedMLPClassifier", "LearnedMLPRegressor"]
