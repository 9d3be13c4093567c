-- Why a list was refused is kept as the key and the values of its sentence; what was kept as two sentences comes back
-- when such a list is sent again.
DELETE FROM userapp_trouble WHERE code = 'refused';
