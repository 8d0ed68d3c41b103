"""What the commands do; ``cli`` declares their options."""
