"""Long storms that watch what grows: memory, descriptors, threads and disk of training and supervisor."""
