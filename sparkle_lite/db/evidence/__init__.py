"""SQL of the analyses: the work space that they share, and what each of them asks."""
