"""The workflows that save: machines, images, retention."""
