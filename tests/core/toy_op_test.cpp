// A new operation from its arithmetic to its gradient, GELU, as the guide says how to add one; and
// what happens where a backend lacks a kernel. The sections are headed by the files that an
// operation of the framework would touch.
#define THIMBLE_ISA toy

#include "core/nn/op_node.h"
#include "core/nn/resident_grad_sink.h"
#include "core/ops/checks.h"
#include "core/ops/cpu/isa_element.h"
#include "core/ops/op_observer.h"
#include "tests/core/gradient_error.h"

namespace thimble {

// 1. core/ops/element_math.h: the arithmetic of one element, for every instruction set and for
// GPUs.
namespace toy {

/// x Phi(x). Ref: Hendrycks & Gimpel 2016.
TH_HOST_DEVICE inline float gelu_value(float x) {
  return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
}
TH_HOST_DEVICE inline float gelu_grad_value(float dout, float x) {
  const float density = 0.39894228f * std::exp(-0.5f * x * x);
  return dout * (0.5f * (1.0f + std::erf(x * 0.70710678f)) + x * density);
}

}  // namespace toy

// 2. core/ops/kernel_table.h: two lines of a list. The rest of this section is what the framework
// has once for all operations.
namespace {

#define TOY_KERNELS(KERNEL)                 \
  KERNEL(gelu, const ElementwiseArgs& args) \
  KERNEL(gelu_grad, const ElementwiseArgs& args)

struct ToyTable {
  explicit ToyTable(const char* backend) : name(backend) {}
  const char* name;
#define TOY_FIELD(kernel, ...) Kernel<void(__VA_ARGS__)> kernel{#kernel, name};
  TOY_KERNELS(TOY_FIELD)
#undef TOY_FIELD
};

ToyTable toy_cpu_table() {
  ToyTable table("cpu");
#define TOY_FILL(kernel, ...) table.kernel = toy::elementwise<toy::kernel##_value>;
  TOY_KERNELS(TOY_FILL)
#undef TOY_FILL
  return table;
}

ToyTable toy_planning_table() {
  ToyTable table("plan of cpu");
#define TOY_FILL(kernel, ...) table.kernel.do_nothing();
  TOY_KERNELS(TOY_FILL)
#undef TOY_FILL
  return table;
}

const ToyTable& toy_table_of(const Tensor& x) {
  static const ToyTable kCpu = toy_cpu_table(), kPlan = toy_planning_table(), kGpu("gpu");
  if (x.device().kind == DeviceKind::kGpu) return kGpu;
  return x.device().planning ? kPlan : kCpu;
}

// 3. core/ops/gelu.h: the front ends, which check shapes; inline.
void gelu(const Tensor& out, const Tensor& x) {
  const OpTimer timer("gelu");
  ops::check_alike({&out, &x});
  toy_table_of(out).gelu({.n = x.numel(), .dtype = x.dtype(), .in = {x.raw()}, .out = out.raw()});
}

void gelu_grad(const Tensor& dx, const Tensor& dout, const Tensor& x) {
  const OpTimer timer("gelu_grad");
  ops::check_alike({&dx, &dout, &x});
  toy_table_of(dx).gelu_grad(
      {.n = x.numel(), .dtype = x.dtype(), .in = {dout.raw(), x.raw()}, .out = dx.raw()});
}

// 4 and 5. core/nn/functional.h and core/nn/functional.cpp: the differentiable form.
Var gelu(Context& ctx, const Var& x) {
  Tensor out = activation(ctx, x.value.shape(), "gelu");
  gelu(out, x.value);
  Var y = make_var(ctx, std::move(out), x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record(
      [saved = ctx.tape->save(x), x_id = x.id, y_id = y.id, arena = &ctx.arena](Tape& tape) {
        const Tensor dy = tape.take_grad(y_id), source = saved->get();
        const Tensor dx = gradient_of(*arena, source);
        gelu_grad(dx, dy, source);
        tape.add_grad(x_id, dx);
      });
  return y;
}

// 6. Its test. An operation with kernels of its own instead of element-wise arithmetic has two
// sources of kernels, for CPUs and GPUs, in place of element_math.h: seven files.
double reference(double x) {
  return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
}

class ToyOp : public testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 22);
};

TEST_P(ToyOp, ForwardAndBackwardEqualTheDefinition) {
  for (const std::int64_t n : {0, 1, 7, 16, 1001}) {
    const Shape shape{n};
    const Tensor x = random_tensor(*arena_, GetParam(), shape, 1, 2.0f),
                 dy = random_tensor(*arena_, GetParam(), shape, 2);
    const ParamTable params;
    ResidentParamStore store(*arena_, params, GetParam(), true);
    ResidentGradSink sink(*arena_, params, {});
    SavePolicy keep;
    Tape tape(*arena_, sink, keep, Recompute::kNone);
    Context ctx{.store = store, .arena = *arena_, .dtype = GetParam(), .tape = &tape};
    std::vector<double> dx;
    const Var in = tape.make(x);
    tape.record([id = in.id, &dx](Tape& t) { dx = values_of(t.take_grad(id)); });
    const Var y = gelu(ctx, in);
    tape.add_grad(y.id, dy);
    tape.backward();
    std::vector<double> want, want_dx;
    const std::vector<double> weight = values_of(dy);
    for (const double v : values_of(x)) {
      constexpr double kStep = 1e-5;
      want.push_back(reference(v));
      want_dx.push_back(weight[want_dx.size()] * (reference(v + kStep) - reference(v - kStep)) /
                        (2 * kStep));
    }
    expect_close(values_of(y.value), want, tolerance_of(GetParam()), "gelu");
    expect_gradient(dx, want_dx, GetParam(), "dx");
  }
}

TEST_P(ToyOp, APlanComputesNothing) {
  const auto plan = Arena::make_planning();
  const Tensor x = Tensor::empty(*plan, MemoryTag::kActivations, GetParam(), Shape{5});
  EXPECT_NO_THROW(gelu(x, x));
}

template <typename F>
void expect_no_kernel(F&& call, const std::string& message) {
  try {
    call();
    ADD_FAILURE() << "no error; wanted " << message;
  } catch (const SystemError& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(KernelTable, AKernelThatABackendLacksIsAnErrorNamingIt) {
  const Tensor on_gpu = Tensor::wrap(nullptr, DType::kF32, Shape{3}, {.kind = DeviceKind::kGpu});
  expect_no_kernel([&] { gelu(on_gpu, on_gpu); },
                   "gelu: the backend 'gpu' has no kernel for this operation");
  const KernelTable nothing("nothing");
  expect_no_kernel([&] { nothing.rope({}); },
                   "rope: the backend 'nothing' has no kernel for this operation");
}

INSTANTIATE_TEST_SUITE_P(DTypes, ToyOp, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
