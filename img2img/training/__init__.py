"""Training. `loop.py` is the loop; `engine.py` the two players' steps; `run_folder.py` and `report.py` what is written.

`prepare.py` makes what a run needs before its first step; `evaluation.py` measures what it makes meanwhile, and
`standing.py` keeps what that came to; `speed.py` times steps.
`schedules.py`, `ema.py`, `image_pool.py`, `precision.py`, `distributed.py` and `signals.py` each hold what their name
says.
"""

from img2img.training.loop import Progress, TrainResult, train

__all__ = ["Progress", "TrainResult", "train"]
