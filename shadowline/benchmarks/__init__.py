"""The measurements behind the documented numbers: `shadowline bench`."""
