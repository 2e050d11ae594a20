"""Client and server pairs, demonstrations, measurements and simulated runs."""
