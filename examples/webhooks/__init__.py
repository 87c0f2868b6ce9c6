"""A maintainer's desk: GitHub's webhook deliveries come in, things to do and to tell go out. Begin with app.py."""
