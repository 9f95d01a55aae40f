// Errors on the way out: wherever a rank fails, its own reason is what is told, the other ranks end
// with it, and nothing is used after it is gone. The address sanitizer knows what an arena has
// taken back, so that under it these tests see a late transfer too.
#include <filesystem>
#include <random>

#include "checkpoint/checkpoint_reader.h"
#include "core/base/failpoint.h"
#include "core/io/file_engine.h"
#include "models/decoder.h"
#include "models/hf_export.h"
#include "parallel/abort_on_error.h"
#include "parallel/collectives.h"
#include "tests/parallel/tiny_training.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Fails at the hit-th operation of tensors or control messages that its rank starts; 0: never.
class FailingCommunicator final : public Communicator {
 public:
  explicit FailingCommunicator(Communicator& inner) : inner_(inner) {}
  void arm(long hit) {
    hit_ = hit;
    started_ = 0;
  }
  long started() const { return started_; }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override {
    if (++started_ == hit_) throw SystemError("the line is cut");
    return inner_.start(label, purpose, std::move(exchange));
  }
  void set_time_limit(std::chrono::milliseconds limit) override { inner_.set_time_limit(limit); }
  void abort(const std::string& reason) noexcept override { inner_.abort(reason); }
  Traffic traffic() const override { return inner_.traffic(); }
  std::string failure() const override { return inner_.failure(); }

 private:
  Communicator& inner_;
  long hit_ = 0, started_ = 0;
};

struct Layout {
  int ranks = 1;
  Setting setting;
};

std::string name_of(const Layout& layout) {
  const Setting& s = layout.setting;
  return fmt::format("{} ranks, stage {}, {}{}{}, {}", layout.ranks, s.stage, s.optimizer,
                     s.fused ? ", fused" : "", s.project_gradients ? ", projected" : "",
                     s.dtype == DType::kF32 ? "f32" : "bf16");
}

enum class What { kMemory, kLine };

// The parts of a run that can fail.
enum class Part { kLoad, kStep, kEvaluate, kSample, kSave, kExport, kResume };
constexpr std::array kParts{Part::kLoad,   Part::kStep, Part::kEvaluate, Part::kSample,
                            Part::kExport, Part::kSave, Part::kResume};

class UnwindTest : public testing::TestWithParam<int> {
 protected:
  UnwindTest()
      : dir_(fs::temp_directory_path() /
             fmt::format("thimble-unwind-{}-{}", ::getpid(), std::random_device()())),
        files_(make_file_engine()) {
    fs::create_directories(dir_);
  }
  ~UnwindTest() override { fs::remove_all(dir_); }

  static const Transformer& transformer(const TrainEngine& engine) {
    return dynamic_cast<const Transformer&>(engine.model());
  }

  void sample(TrainEngine& engine) const {
    Decoder decoder(engine.arena(), transformer(engine), engine.store(), engine.options().dtype, 8);
    const std::vector<std::int32_t> prompt{3, 1, 4}, next{1};
    static_cast<void>(decoder.feed(prompt));
    static_cast<void>(decoder.feed(next));
  }

  void run_part(Part part, TrainEngine& engine, int ranks, const Setting& s) {
    const int rank = engine.rank();
    switch (part) {
      case Part::kLoad: {
        InitSource source(3, 0.3);
        return engine.load(source);
      }
      case Part::kStep:
        static_cast<void>(engine.step(batches_of(rank, ranks, s.accumulation_steps, -1),
                                      ++steps_.at(index(rank)), 1e-3));
        return;
      case Part::kEvaluate:
        static_cast<void>(engine.evaluate(micro_batch(rank)));
        return;
      case Part::kSample:
        return sample(engine);
      case Part::kSave:
        static_cast<void>(
            save_checkpoint(engine, *files_, dir_ / "checkpoints", {.step = 1},
                            {.model_config = "{}", .tokenizer = "byte", .resolved_job = ""}));
        return;
      case Part::kExport:
        static_cast<void>(
            export_hf(engine.arena(), transformer(engine), engine.store(),
                      {.directory = dir_ / "model", .dtype = s.dtype, .writes = rank == 0}));
        return;
      case Part::kResume: {
        const auto reader = CheckpointReader::open(dir_ / "checkpoints" / "ckpt-1", {*files_, {}});
        static_cast<void>(load_checkpoint(engine, reader));
        return;
      }
    }
  }

  struct Failed {
    std::vector<std::string> errors;  // by rank; empty: none
    long passed = 0;                  // by the victim, of what it could have failed at
  };

  // All parts up to `part` on every rank, the last of which fails at the hit-th place on one.
  Failed run(const Layout& layout, Part part, What what, int victim, long hit) {
    const Setting& s = layout.setting;
    LocalWorld world(layout.ranks, std::chrono::seconds(60));
    Failed failed{.errors = std::vector<std::string>(index(layout.ranks))};
    steps_.assign(index(layout.ranks), 0);
    std::vector<std::thread> threads;
    for (int r = 0; r < layout.ranks; ++r) {
      threads.emplace_back([&, r] {
        set_team_threads(1);
        const auto member = world.communicator(r);
        FailingCommunicator comm(*member);
        const auto arena = Arena::make_cpu(1 << 26);
        arena->set_poison(true);
        try {
          const Transformer model(odd_config(s.tied));
          const OptimizerGroups optimizer =
              make_groups(model.params(), s.optimizer, s.project_gradients, s.update_gap);
          TrainEngine engine(*arena, model, optimizer, engine_options(s, s.accumulation_steps),
                             {comm, stores_of_tests(model, optimizer, comm)});
          abort_on_error(comm, [&] {
            for (const Part before : kParts) {
              if (before == part) break;
              run_part(before, engine, layout.ranks, s);
            }
            const ThreadFailpoint point("arena.reserve",
                                        r == victim && what == What::kMemory ? hit : 0);
            comm.arm(r == victim && what == What::kLine ? hit : 0);
            run_part(part, engine, layout.ranks, s);
            if (r == victim)
              failed.passed = what == What::kMemory ? point.passed() : comm.started();
            // What follows a part shows the others that it failed on one rank.
            barrier(comm, "the end");
          });
        } catch (const std::exception& e) {
          failed.errors[index(r)] = e.what();
        }
        EXPECT_EQ(arena->live_bytes(), 0) << name_of(layout) << ", rank " << r;
      });
    }
    for (std::thread& t : threads) t.join();
    return failed;
  }

  // Without the ranks that it came through: a save tells all ranks who failed.
  static std::string bare(std::string error) {
    const std::string_view start = "rank ";
    while (error.starts_with(start)) error.erase(0, error.find(": ") + 2);
    return error;
  }

  // Fails at up to `most` of the places of a part, first and last among them.
  void fail_at_places(const Layout& layout, Part part, What what, long most) {
    const int victim = layout.ranks - 1 - layout.setting.stage % layout.ranks;
    const Failed none = run(layout, part, what, victim, 0);
    for (const std::string& error : none.errors) ASSERT_EQ(error, "") << name_of(layout);
    const std::string reason =
        what == What::kLine ? "the line is cut" : "failpoint arena.reserve: Input/output error";
    const long places = none.passed, tries = std::min(places, most);
    for (long i = 0; i < tries; ++i) {
      const long hit = tries == 1 ? 1 : 1 + i * (places - 1) / (tries - 1);
      SCOPED_TRACE(fmt::format("{}: part {}, place {} of {}, rank {}", name_of(layout),
                               static_cast<int>(part), hit, places, victim));
      const Failed failed = run(layout, part, what, victim, hit);
      const auto told = [&](int r) {
        const std::string& error = failed.errors[index(r)];
        return part == Part::kSave ? bare(error) : error;
      };
      EXPECT_EQ(told(victim), reason);
      for (int r = 0; r < layout.ranks; ++r) {
        if (r == victim) continue;
        EXPECT_EQ(told(r), part == Part::kSave ? reason : abort_reason(victim, reason))
            << "rank " << r;
      }
    }
  }

  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  fs::path dir_;
  std::unique_ptr<FileEngine> files_;
  std::vector<std::int64_t> steps_;
};

std::vector<Layout> layouts(int ranks) {
  std::vector<Layout> all;
  for (int stage = 0; stage <= (ranks == 1 ? 0 : 3); ++stage) {
    for (const bool fused : {false, true}) {
      for (const bool projected : {false, true}) {
        all.push_back({ranks,
                       {.optimizer = projected ? "galore" : "adamw",
                        .stage = stage,
                        .accumulation_steps = fused ? 1 : 2,
                        .dtype = projected ? DType::kBF16 : DType::kF32,
                        .comm_dtype = projected ? DType::kBF16 : DType::kF32,
                        .recompute = fused ? Recompute::kFull : Recompute::kSelective,
                        .fused = fused,
                        .clip_mode = projected ? ClipMode::kTwoPass : ClipMode::kPerTensor,
                        .project_gradients = projected}});
        if (!fused) all.back().setting.clip_mode = ClipMode::kExact;
      }
    }
  }
  return all;
}

TEST_P(UnwindTest, AStepThatFailsLeavesNothing) {
  for (const Layout& layout : layouts(GetParam())) {
    fail_at_places(layout, Part::kStep, What::kMemory, 12);
    if (layout.ranks > 1) fail_at_places(layout, Part::kStep, What::kLine, 12);
  }
}

TEST_P(UnwindTest, EveryOtherPartThatFailsLeavesNothing) {
  for (const Layout& layout : layouts(GetParam())) {
    if (layout.setting.fused) continue;
    for (const Part part :
         {Part::kLoad, Part::kEvaluate, Part::kSample, Part::kExport, Part::kSave, Part::kResume}) {
      fail_at_places(layout, part, What::kMemory, 4);
      if (layout.ranks > 1) fail_at_places(layout, part, What::kLine, 4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, UnwindTest, testing::Values(1, 2, 3));

}  // namespace
}  // namespace thimble
