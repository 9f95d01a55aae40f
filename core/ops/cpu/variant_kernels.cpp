// The CPU's table of the kernels that only some families need, and those of plans.
#include "core/ops/variant_kernels.h"

#include <atomic>
#include <string_view>

#include "core/ops/cpu/isa_variants.h"

namespace thimble {
namespace {

VariantKernels make_cpu_variants() {
  const IsaVariants& isa =
      std::string_view(cpu_isa()) == "avx2" ? avx2::isa_variants() : avx512::isa_variants();
  VariantKernels table("cpu");
#define THIMBLE_FILL(kernel, ...) table.kernel = isa.kernel;
  THIMBLE_VARIANT_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

VariantKernels make_planning_variants() {
  VariantKernels table("plan");
#define THIMBLE_FILL(kernel, ...) table.kernel.do_nothing();
  THIMBLE_VARIANT_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

std::atomic<const VariantKernels*> gpu_variants{nullptr};

}  // namespace

void register_gpu_variant_kernels(const VariantKernels& table) {
  gpu_variants = &table;
}

const VariantKernels& variant_kernels(Device device) {
  static const VariantKernels kCpu = make_cpu_variants();
  static const VariantKernels kPlan = make_planning_variants();
  static const VariantKernels kNone("gpu");
  if (device.planning) return kPlan;
  if (device.kind == DeviceKind::kCpu) return kCpu;
  const VariantKernels* gpu = gpu_variants;
  return gpu != nullptr ? *gpu : kNone;
}

}  // namespace thimble
