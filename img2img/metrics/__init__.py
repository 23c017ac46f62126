"""How well a model does, measured: functions of tensors that know no configuration and no file.

modes.py        modes found, share of samples near a mode, KL over the modes
divergences.py  KL, Jensen-Shannon and Wasserstein distances on the line, and their slopes
"""
