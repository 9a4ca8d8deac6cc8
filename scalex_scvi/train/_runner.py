"""One training, whose errors and interruption reach the caller unchanged."""

from __future__ import annotations

import signal
import threading
from typing import Any

from lightning.pytorch.trainer.states import TrainerStatus
from scvi.train import TrainRunner


class SCALEXTrainRunner(TrainRunner):
    """scvi-tools' runner; Ctrl-C is a ``KeyboardInterrupt``, and an error prints nothing.

    Lightning ends the process after Ctrl-C (``SystemExit``) and leaves the key without effect;
    scvi-tools prints each error beside raising it. A model that was not trained stays so.

    Parameters
    ----------
    *args, **kwargs
        See :class:`scvi.train.TrainRunner`.
    """

    def __call__(self) -> None:
        """Train."""
        fit, was_trained = self.trainer.fit, self.model.is_trained_
        failures: list[BaseException] = []

        def guarded(*args: Any, **kwargs: Any) -> None:
            key = signal.getsignal(signal.SIGINT)
            try:
                fit(*args, **kwargs)
            except BaseException as error:
                failures.append(error)
            finally:
                if key is not None and threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGINT, key)

        self.trainer.fit = guarded
        try:
            super().__call__()
        finally:
            self.trainer.fit = fit
            if failures:
                self.model.is_trained_ = was_trained
        if failures:
            interrupted = self.trainer.state.status == TrainerStatus.INTERRUPTED
            if isinstance(failures[0], SystemExit) and interrupted:
                msg = "The training was interrupted."
                raise KeyboardInterrupt(msg) from None
            raise failures[0]
