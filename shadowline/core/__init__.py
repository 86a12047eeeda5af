"""What every package stands on: parameters, settings, folder layout, files written whole, progress."""
