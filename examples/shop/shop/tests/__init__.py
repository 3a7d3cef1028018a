"""Tests of the shop; they hold with any cache that SHOP_CACHE names."""
