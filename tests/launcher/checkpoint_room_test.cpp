#include "launcher/commands/checkpoint_room.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::TempDir;
using testing::write_bytes;

CheckpointRoom room_of(job::CheckpointConfig config, std::int64_t steps, bool best = false) {
  job::JobConfig job;
  job.checkpoint = config;
  if (!best) job.export_.checkpoint = job::ExportChoice::kLast;
  return checkpoint_room(job, steps, 100);
}

TEST(CheckpointRoom, CountsWhatIsKeptAtMost) {
  // steps, save_steps, save_total_limit, keep_every: kept, one more
  const auto expect = [](const CheckpointRoom& room, std::int64_t kept, bool one_more) {
    EXPECT_EQ(room.num_kept, kept);
    EXPECT_EQ(room.one_more, one_more);
    EXPECT_EQ(room.bytes(), 100 * (kept + (one_more ? 1 : 0)));
  };
  expect(room_of({.save_steps = {10}, .save_total_limit = 3}, 1000), 3, true);
  expect(room_of({.save_steps = {10}, .save_total_limit = 3}, 1000, true), 4, true);
  expect(room_of({.save_steps = {10}, .save_total_limit = 3, .keep_every = 100}, 1000), 13, true);
  expect(room_of({.save_steps = {0}, .save_total_limit = 3}, 1000), 1, false);
  expect(room_of({.save_steps = {500}, .save_total_limit = 3}, 1000), 2, false);
  expect(room_of({.save_steps = {}, .save_total_limit = 3}, 1000), 3, true);
  expect(room_of({.save_steps = {500}, .save_total_limit = 3}, 1), 1, false);
  EXPECT_EQ(room_of({.save_steps = {10}, .save_total_limit = 2}, 1000).text(),
            "2 checkpoints of 100 B are kept and one more is being written: 300 B");
  EXPECT_EQ(room_of({.save_steps = {0}}, 10).text(), "1 checkpoint of 100 B is kept: 100 B");
}

TEST(CheckpointRoom, ADiskThatIsTooSmallIsRefusedByNumbersAndKeys) {
  const TempDir dir;
  const job::JobConfig job;
  EXPECT_NO_THROW(require_checkpoint_room(dir.path(), job, {3, true, 1}));
  const std::int64_t huge = std::int64_t{1} << 58;
  EXPECT_THROWS_WITH(UserError,
                     "3 checkpoints of 268435456.00 GiB are kept and one more is being written: ",
                     require_checkpoint_room(dir.path(), job, {3, true, huge}));
  EXPECT_THROWS_WITH(UserError,
                     "are free; checkpoint.save_total_limit = 1 instead of 3 keeps fewer",
                     require_checkpoint_room(dir.path(), job, {3, true, huge}));
  std::filesystem::create_directories(dir / "checkpoints/ckpt-1");
  write_bytes(dir / "checkpoints/ckpt-1/data-0.h5", "12345");
  job::JobConfig every;
  every.checkpoint = {.save_total_limit = 1, .keep_every = 7};
  EXPECT_THROWS_WITH(UserError,
                     "are free beside the 5 B of checkpoints that are there; "
                     "checkpoint.save_total_limit is 1 already, and a greater "
                     "checkpoint.keep_every than 7 too; output_dir can be on another disk",
                     require_checkpoint_room(dir.path(), every, {1, true, huge}));
}

}  // namespace
}  // namespace thimble
