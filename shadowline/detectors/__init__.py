"""What an inspector is compared with: single-class detectors behind one protocol."""
