"""Reinforcement fine-tuning on rubric rewards with Ray, DeepSpeed and vLLM."""

__version__ = "0.1.0"
