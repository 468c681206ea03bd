"""The model of a run before its first step."""

import torch

from .model import CharLM, CharLMConfig
from .settings import TrainSettings


def initial_model(vocab_size: int, settings: TrainSettings, device: torch.device) -> CharLM:
    """The model of ``settings``, its parameters drawn by torch's global generator."""
    names = ("hidden_size", "num_layers", "nonlinearity", "dropout", "embedding_size", "tied")
    shape = {name: getattr(settings, name) for name in names}
    model = CharLM(CharLMConfig(vocab_size, **shape), device=device)
    if settings.recurrent_init == "orthogonal":
        for name, parameter in model.rnn.named_parameters():
            if name.startswith("weight_hh"):
                torch.nn.init.orthogonal_(parameter)
    return model
