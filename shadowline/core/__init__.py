"""What every package builds on: parameters, settings, folder layout, atomic files, progress."""
