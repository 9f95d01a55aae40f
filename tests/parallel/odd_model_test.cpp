// The gradients of a model that is no transformer, and what it is refused.
#include "tests/parallel/odd_model.h"

#include "core/base/random.h"
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

// A sign for each element of a parameter's storage.
float sign_of(const ParamInfo& info, std::int64_t index, std::uint64_t seed) {
  return mix64(mix64(hash_name(info.name), seed), static_cast<std::uint64_t>(index)) % 2 == 0
             ? 1.0f
             : -1.0f;
}

// Norms and biases other than those of a new model, and one parameter moved along signs.
class MovedSource final : public TensorSource {
 public:
  MovedSource(std::string name, std::uint64_t seed, float by)
      : name_(std::move(name)), seed_(seed), by_(by) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override {
    inner_.read(info, slice, dst);
    const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
    auto* out = dst.data<float>();
    for (std::int64_t i = 0; i < slice.rows() * width; ++i) {
      const std::int64_t index = slice.begin * width + i;
      if (!info.is_matrix()) out[i] += 0.2f * std::sin(static_cast<float>(index + 1));
      if (info.name == name_) out[i] += by_ * sign_of(info, index, seed_);
    }
  }

 private:
  InitSource inner_{3, 0.3};
  std::string name_;
  std::uint64_t seed_;
  float by_;
};

TEST(OddModel, GradientsAreTheSlopesOfTheLoss) {
  for (const auto& [tied, wide] :
       {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    const auto arena = Arena::make_cpu(1 << 26);
    arena->set_poison(true);
    const OddModel model(tied, wide);
    const OptimizerGroups optimizer = make_groups(model.params(), "sgd");
    TrainEngine engine(*arena, model, optimizer, engine_options({}, 1));
    const Batch batch = micro_batch(0);
    const auto loss_at = [&](const std::string& name, std::uint64_t seed, float by) {
      MovedSource source(name, seed, by);
      engine.load(source);
      const EvalSum sum = engine.evaluate(batch);
      return sum.weighted_loss / sum.weight;
    };
    static_cast<void>(loss_at("", 0, 0));
    static_cast<void>(engine.accumulate(std::span(&batch, 1)));
    std::vector<std::vector<float>> grads;
    for (const ParamId id : model.params().ids()) {
      const Tensor& grad = engine.grads().grad(id);
      ASSERT_EQ(grad.defined(), model.params().info(id).trainable) << model.params().info(id).name;
      grads.push_back(grad.defined() ? floats(grad) : std::vector<float>());
    }
    engine.release_grads();
    for (const ParamId id : model.params().ids()) {
      const ParamInfo& info = model.params().info(id);
      if (!info.trainable) continue;
      const std::vector<float>& grad = grads[static_cast<std::size_t>(id)];
      double norm = 0;
      for (const float g : grad) norm += static_cast<double>(g) * static_cast<double>(g);
      norm = std::sqrt(norm);
      EXPECT_GT(norm, 1e-4) << info.name;
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        double slope = 0;
        for (std::size_t i = 0; i < grad.size(); ++i) {
          slope += static_cast<double>(grad[i]) *
                   static_cast<double>(sign_of(info, static_cast<std::int64_t>(i), seed));
        }
        const float by = 0.01f / std::sqrt(static_cast<float>(grad.size()));
        const double measured = (loss_at(info.name, seed, by) - loss_at(info.name, seed, -by)) /
                                (2.0 * static_cast<double>(by));
        EXPECT_NEAR(measured, slope, 4e-3 * norm + 1e-3)
            << info.name << " tied " << tied << " wide " << wide;
      }
    }
  }
}

TEST(OddModel, SizesThatEightBitsCannotHaveAreNamed) {
  const auto arena = Arena::make_planning();
  for (const bool odd : {false, true}) {
    const std::unique_ptr<TrainableModel> model = tiny_model({.odd_model = odd});
    const OptimizerGroups optimizer = make_groups(model->params(), "sgd");
    try {
      const TrainEngine engine(*arena, *model, optimizer, {.fp8 = true, .seq_len = 16});
      ADD_FAILURE() << "not refused";
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(odd ? "the model's width = 24" : "hidden_size = 24"),
                std::string::npos)
          << e.what();
    }
  }
}

}  // namespace
}  // namespace thimble
