"""From folders of pictures to batches of tensors.

decode.py   one picture: open_image() -> Picture, the only place that reads picture files
encode.py   one picture: save_image(), the only place that writes them
resize.py   resize and fit of uint8 pixels
files.py    which files a folder holds
threads.py  decoding threads, with a deadline for files that never answer
scan.py     opens every file once and lists those that cannot be used
sources.py  what training reads: open_source() -> Source (images, classes, pairs, unpaired)
pack.py     a source decoded and resized once, kept as memory-mapped uint8 arrays
batches.py  Loader: numbers of images in the run -> Batch on the device
augment.py  crop, flip and zoom on the device, the same for both halves of a pair
split.py    train / validation / test folders
check.py    what a folder holds, what is wrong with it
worlds.py   toy worlds: points of the line and the plane, drawn instead of read
pictures.py pictures of such points, and of what a discriminator says of every place
"""
