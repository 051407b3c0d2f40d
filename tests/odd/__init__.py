"""Files that users have, send or damage, made by code; `tests.corpus` has them all."""
