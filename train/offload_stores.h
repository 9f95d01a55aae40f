// Joins the state of a training engine with the disk: which files hold it (of the checkpoint's
// layout, so that a state on disk can become a checkpoint), who makes them, and how ranks agree.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "offload/offload_home.h"
#include "offload/persisted_weights.h"
#include "parallel/communicator.h"
#include "train/train_engine.h"

namespace thimble {

struct OffloadSpec {
  bool state = false;               // masters and the optimizer's state are on disk
  std::filesystem::path directory;  // of this run alone; there
  std::int64_t window_bytes = 0;    // of memory that they move through; 0: 128 MiB, less for small models
  int slots = 2;                    // 1: changed in place
  bool files_of_ranks = false;      // every rank has files of its own, as its disk is not shared
};

class OffloadStores {
 public:
  /// comm must outlive the engine that is given stores(). `identity`: of the run, the same on all
  /// ranks.
  OffloadStores(const OffloadSpec& spec, const Optimizer& optimizer, Communicator& comm,
                std::string identity);

  /// The newest state that all ranks have committed whole in the directory; all ranks together.
  /// None: there is none, or it is another run's. With it the engine begins where that state is.
  const std::optional<CommitRecord>& find_committed();

  /// What the engine keeps its state in; for one engine.
  EngineStores stores();
  /// After the engine was made upon a committed state: reads the weights.
  void restore_weights();
  /// The engine's; null before it was made.
  OffloadHome* home() { return home_.get(); }

 private:
  SlotMaker slot_maker(const StateTable& table, int rank) const;
  std::shared_ptr<OffloadHome> make_home(Arena& arena, const StateTable& table, int rank);

  OffloadSpec spec_;
  const Optimizer& optimizer_;
  Communicator& comm_;
  std::string identity_;
  std::optional<CommitRecord> recovered_;
  std::shared_ptr<OffloadHome> home_;
  PersistedWeights* weights_ = nullptr;  // the engine's
};

}  // namespace thimble
