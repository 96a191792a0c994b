"""Videos and folders of frames: labels frame by frame, words and settings once."""
