"""WinCLIP: an image judged by words alone, or by words and a few normal images (Jeong et al., arXiv 2303.14814)."""
