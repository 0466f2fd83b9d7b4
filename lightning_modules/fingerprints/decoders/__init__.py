"""Key decoders: from images to the log odds of their bits."""
