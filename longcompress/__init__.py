"""Hours of video with sound as a fixed, declared number of tokens that a language model reads."""
