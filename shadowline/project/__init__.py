"""A project of the user's own: made from a folder of images, and checked before anything is computed."""
