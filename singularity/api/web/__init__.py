"""The pages for people. They show what the routes answer, and change nothing but who is let in."""
