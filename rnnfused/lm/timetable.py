"""When a run evaluates, saves and ends."""

from .settings import TrainSettings
from .training_state import Progress


class Timetable:
    """When a run evaluates, saves and ends, by its counters.

    Args:
        settings: of the run.
        num_windows: windows of an epoch.

    Attributes:
        steps: of all epochs.
    """

    def __init__(self, settings: TrainSettings, num_windows: int):
        self._settings, self._num_windows = settings, num_windows
        self.steps = settings.epochs * num_windows

    def is_done(self, progress: Progress) -> bool:
        """Whether the run has had its epochs, its time or its patience."""
        if self.has_lost_patience(progress):
            return True
        if self._settings.minutes is not None:
            return progress.step > 0 and progress.elapsed >= 60 * self._settings.minutes
        return progress.step >= self.steps

    def is_finished(self, progress: Progress) -> bool:
        """Whether the run is done and evaluated."""
        return self.is_done(progress) and progress.evaluated == progress.step

    def has_lost_patience(self, progress: Progress) -> bool:
        """Whether ``patience`` evaluations in a row found no new best model."""
        patience = self._settings.patience
        return patience is not None and progress.stale >= patience

    def is_evaluation_due(self, progress: Progress) -> bool:
        """Whether steps were taken since the last evaluation, and enough of them."""
        if progress.evaluated == progress.step:
            return False
        if self._settings.eval_steps is not None:
            return self.is_done(progress) or progress.step % self._settings.eval_steps == 0
        return self.is_done(progress) or progress.window == self._num_windows

    def is_save_due(self, progress: Progress, saved_at: float) -> bool:
        """Whether an interval between saves has ended; never right after a step that failed.

        Args:
            saved_at: seconds from the run's start to its last save.
        """
        if progress.skipped_in_row or self.is_evaluation_due(progress):  # which saves as well
            return False
        save_steps = self._settings.save_steps
        if save_steps is not None and progress.step % save_steps == 0:
            return True
        return progress.elapsed - saved_at >= 60 * self._settings.save_minutes
