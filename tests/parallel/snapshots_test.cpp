// Snapshots that are copied while an engine trains on are the state of the step at which they
// began, bit for bit.
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/lazy_snapshot.h"
#include "checkpoint/save_snapshots.h"
#include "checkpoint/snapshot_reader.h"
#include "parallel/collectives.h"
#include "tests/parallel/tiny_training.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

// A rank's memory for snapshots, and the engine that it is of.
class SnapshotOfEngine {
 public:
  explicit SnapshotOfEngine(TrainEngine& engine)
      : engine_(engine),
        room_(snapshot_room(engine.table(), engine.rank())),
        bytes_(static_cast<std::size_t>(SnapshotMemory::bytes_for(room_))),
        memory_(SnapshotMemory::make(bytes_, room_)) {
    engine.set_state_watcher(&copy_);
  }
  ~SnapshotOfEngine() { engine_.set_state_watcher(nullptr); }

  void begin(std::int64_t step, int slot) {
    copy_.begin(engine_.table(), engine_.state(), memory_, slot,
                {.step = step,
                 .start = 7,
                 .rank = engine_.rank(),
                 .ranks = engine_.comm().size(),
                 .metadata = "{}"});
  }
  SealedSnapshot sealed(int slot) {
    copy_.finish();
    SealedSnapshot found = memory_.sealed(slot).value();
    found.verify();
    return found;
  }

 private:
  TrainEngine& engine_;
  SnapshotRoom room_;
  std::vector<std::byte> bytes_;
  SnapshotMemory memory_;
  LazySnapshot copy_;
};

// What the rank writes of a checkpoint now, by name.
std::map<std::string, std::vector<std::byte>> own_state(TrainEngine& engine, std::int64_t step) {
  std::map<std::string, std::vector<std::byte>> all;
  const auto arrays = checkpoint_arrays(engine.table(), step, engine.rank());
  for (const CheckpointPiece& piece :
       pieces_to_write(engine.table(), arrays, std::int64_t{1} << 40)) {
    const StateLease lease = engine.state().acquire(piece.use);
    const auto* at = static_cast<const std::byte*>(lease.tensor().raw());
    all[checkpoint_key(piece.array->tensor)].assign(at, at + lease.tensor().nbytes());
  }
  return all;
}

std::map<std::string, std::vector<std::byte>> own_state(const SealedSnapshot& snapshot) {
  std::map<std::string, std::vector<std::byte>> all;
  for (const SnapshotArray& array : snapshot.text.arrays) {
    if (array.own.size == 0) continue;
    const auto part = snapshot.data.subspan(static_cast<std::size_t>(array.offset),
                                            static_cast<std::size_t>(array.own.size));
    all[checkpoint_key(array.tensor)].assign(part.begin(), part.end());
  }
  return all;
}

// Trains some steps with a snapshot of each, and compares it when the next one is over.
void expect_snapshots_of(Communicator& comm, const Setting& s) {
  const auto arena = Arena::make_cpu(1 << 26);
  const std::unique_ptr<TrainableModel> model = tiny_model(s);
  const OptimizerGroups optimizer =
      make_groups(model->params(), s.optimizer, s.project_gradients, s.update_gap);
  TrainEngine engine(*arena, *model, optimizer, engine_options(s, 1),
                     {comm, stores_of(s, *model, optimizer, comm)});
  InitSource source(3, 0.2);
  engine.load(source);
  const std::vector<Batch> batches = batches_of(comm.rank(), comm.size(), 1, -1);
  SnapshotOfEngine snapshots(engine);
  std::map<std::string, std::vector<std::byte>> before;
  for (std::int64_t step = 1; step <= 5; ++step) {
    engine.step(batches, step, 1e-2);
    if (step > 1) {
      const SealedSnapshot found = snapshots.sealed(static_cast<int>(step) % 2);
      EXPECT_EQ(found.text.step, step - 1);
      EXPECT_TRUE(own_state(found) == before) << s.optimizer << " stage " << s.stage;
    }
    before = own_state(engine, step);
    snapshots.begin(step, static_cast<int>(step + 1) % 2);
  }
}

class SnapshotsTest : public testing::TestWithParam<int> {};

TEST_P(SnapshotsTest, OfEveryOptimizer) {
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const bool fused : {false, true}) {
      Setting s{.optimizer = entry.name,
                .stage = entry.int8_weights ? 1 : 2,
                .dtype = DType::kBF16,
                .update_gap = 2,
                .odd_model = false};
      if (fused) {
        s.fused = true;
        s.clip_mode = ClipMode::kPerTensor;
      }
      run_ranks(GetParam(), [&](Communicator& comm) { expect_snapshots_of(comm, s); });
    }
  }
}

TEST_P(SnapshotsTest, OfEveryStageAndWeightFormat) {
  for (int stage = 0; stage <= 3; ++stage) {
    for (const MasterFormat master :
         {MasterFormat::kF32, MasterFormat::kSplit, MasterFormat::kNone}) {
      for (const bool hostile : {false, true}) {
        const Setting s{.stage = stage,
                        .dtype = DType::kBF16,
                        .tied = stage % 2 == 1,
                        .master = master,
                        .hostile = hostile,
                        .odd_model = hostile};
        run_ranks(GetParam(), [&](Communicator& comm) { expect_snapshots_of(comm, s); });
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, SnapshotsTest, testing::Values(1, 2, 3));

// From snapshots come the files that a save writes, and the state that it loads.
TEST(SnapshotsOnDisk, AreTheCheckpointOfTheirStep) {
  const TempDir dir("snapshots");
  std::filesystem::create_directories(dir.path() / "run");
  constexpr int kRanks = 3;
  std::vector<std::unique_ptr<SnapshotOfEngine>> all(kRanks);
  std::mutex mutex;
  run_ranks(kRanks, [&](Communicator& comm) {
    const auto arena = Arena::make_cpu(1 << 26);
    const Setting s{.stage = 3, .dtype = DType::kBF16};
    const std::unique_ptr<TrainableModel> model = tiny_model(s);
    const OptimizerGroups optimizer = make_groups(model->params(), s.optimizer);
    TrainEngine engine(*arena, *model, optimizer, engine_options(s, 1), {comm});
    InitSource source(3, 0.2);
    engine.load(source);
    const std::vector<Batch> batches = batches_of(comm.rank(), comm.size(), 1, -1);
    engine.step(batches, 1, 1e-2);
    const auto files = make_file_engine();
    save_checkpoint(engine, *files, dir.path() / "saved", {.step = 1}, {"{}", "byte", ""});
    auto own = std::make_unique<SnapshotOfEngine>(engine);
    own->begin(1, 0);
    engine.step(batches, 2, 1e-2);
    own->sealed(0);
    const auto rank = static_cast<std::size_t>(comm.rank());
    {
      const std::lock_guard lock(mutex);
      all[rank] = std::move(own);
    }
    barrier(comm, "snapshots");
    if (comm.rank() == 0) {
      std::vector<SealedSnapshot> sealed;
      std::vector<SnapshotPart> parts;
      for (auto& snapshot : all) sealed.push_back(snapshot->sealed(0));
      for (const SealedSnapshot& snapshot : sealed) parts.push_back(part_of(snapshot));
      const auto path = save_snapshots({*files, {}}, dir.path() / "run" / "checkpoints", parts);
      const auto a = CheckpointReader::open(dir.path() / "saved" / "ckpt-1", {*files, {}});
      const auto b = CheckpointReader::open(path, {*files, {}});
      const SnapshotReader c(parts);
      EXPECT_EQ(b.metadata(), "{}");
      EXPECT_EQ(a.tensors().size(), b.tensors().size());
      for (const auto& [key, placed] : a.tensors()) {
        const auto bytes = [&](const StateReader& reader) {
          std::vector<std::byte> read(static_cast<std::size_t>(placed.bytes));
          reader.read(placed.tensor.name, placed.tensor.slot, 0, read);
          return read;
        };
        EXPECT_TRUE(bytes(a) == bytes(b)) << key;
        EXPECT_TRUE(bytes(a) == bytes(c)) << key;
      }
      parts.pop_back();
      EXPECT_THROW(save_snapshots({*files, {}}, dir.path() / "run" / "checkpoints", parts),
                   SystemError);
    }
    barrier(comm, "snapshots");
    const std::lock_guard lock(mutex);
    all[rank].reset();
  });
}

}  // namespace
}  // namespace thimble
