"""The web page of src.app: what one user's picture becomes (session), in what words and marks it is shown (about,
markup), what can be tried without a picture of one's own (examples), the page (page), and what serves it (server)."""
