"""What `trace view` serves: which runs there are, opened when they are asked for, and the pages made of them."""
