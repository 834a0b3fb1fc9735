"""Files and batches, as the API and the courier share them."""
