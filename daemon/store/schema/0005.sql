-- A revision of the game may hold only what differs from another one, and what is known of one beyond its files is JSON.
ALTER TABLE revision ADD COLUMN base INTEGER NOT NULL DEFAULT 0; -- the revision that it lies over, 0 = it is whole
ALTER TABLE revision ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0; -- when its worker was done
ALTER TABLE revision ADD COLUMN info TEXT NOT NULL DEFAULT '{}' CHECK (json_type(info) = 'object');
