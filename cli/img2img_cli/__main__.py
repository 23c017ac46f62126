"""`python -m img2img_cli`, which is what torchrun -m starts."""

from img2img_cli import main

main()
