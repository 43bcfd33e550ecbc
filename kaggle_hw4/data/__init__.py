"""From the archive to batches: readers, the packed store, crops; recordings and the front end."""
