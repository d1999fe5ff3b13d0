"""What happens to a text before a vocabulary sees it: rewriting and cutting."""
