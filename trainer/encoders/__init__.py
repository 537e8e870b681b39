"""Public VAEs and text encoders from a folder of this machine, and the job that makes shards of
clips with them."""
