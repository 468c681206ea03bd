"""A trained model for the pages that use one."""

import pytest
import torch


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory):
    """A folder with a small trained model in runs/mine, as the README's commands leave it."""
    from rnnfused.lm import TrainSettings, train

    folder = tmp_path_factory.mktemp("trained")
    settings = TrainSettings(hidden_size=8, num_layers=1, num_steps=8, batch_size=2, passes=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train("The cat sat on the mat. The dog did not. " * 20, folder / "runs" / "mine", settings)
    torch.set_num_threads(threads)
    return folder
