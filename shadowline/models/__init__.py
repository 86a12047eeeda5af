"""Every model that inspects, behind the `Detector` protocol, one folder each."""
