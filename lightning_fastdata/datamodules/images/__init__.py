"""Images at the speed of the JPEG decoder: packed file lists, byte sources, crops, decoding into the batch."""
