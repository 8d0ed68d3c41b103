"""BackdoorBox (github.com/THUYimingLi/BackdoorBox), loaded, repaired and joined from outside."""
