"""The file-in, file-out functions behind `dvc.yaml`: one module per stage, run as `shadowline stage NAME`."""
