"""WinCLIP: zero-shot anomaly detection from text prompts (Jeong et al., arXiv 2303.14814)."""
