"""Using a trained model: one picture, a folder of pictures, new samples."""
