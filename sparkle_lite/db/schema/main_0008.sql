-- Segments of cumulative rows know by now which version of a key counts: what an earlier program indexed is indexed anew.
UPDATE segment SET state='closed' WHERE kind='swarm' AND state='indexed';
