-- Whether somebody for whom an administrator vouches saw what an entry rests on: 1 or 0, NULL for what no analysis found
-- and what is older than this. Shown to nobody.
ALTER TABLE decision ADD COLUMN vouched INTEGER;
