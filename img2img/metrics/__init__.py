"""How well a model does, measured: functions of tensors that know no configuration and no file, real before fake.

frechet.py          Fréchet distance (FID), streaming moments, its limit for infinitely many samples, within classes
kernel_distance.py  kernel distance (KID)
intervals.py        where the true value of either lies
inception_score.py  Inception Score
manifold.py         precision, recall, density, coverage
neighbours.py       nearest neighbours, memorisation
paired.py           PSNR, SSIM, MS-SSIM of two pictures
lpips.py            perceptual distance (LPIPS), content preservation
path_length.py      perceptual path length of a generator
modes.py            modes found, share of samples near a mode, KL over the modes
divergences.py      KL, Jensen-Shannon and Wasserstein distances on the line, and their slopes
parzen.py           log-likelihood under a Parzen window
"""
