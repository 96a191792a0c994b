"""Label many pictures, on one machine or several: rows in, rows out, in shards that are whole or not there."""
