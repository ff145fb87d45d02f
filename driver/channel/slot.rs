// SPDX-License-Identifier: GPL-2.0

//! Which hardware channels are taken, by whom, and for which engine.

use super::{
    ChannelId,
    CHANNELS,
    CHANNELS_PER_FILE, //
};
use crate::{
    gpu::Gpu,
    regs::Engine,
    svm::Svm, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Compute,
    Copy,
}

#[derive(Clone, Copy)]
struct Taken {
    engine: Engine,
    /// Tells address spaces apart; never followed.
    owner: usize,
}

/// All hardware channels. Pure logic.
pub(crate) struct Slots([Option<Taken>; CHANNELS]);

impl Slots {
    /// All free.
    pub(crate) const fn new() -> Self {
        Self([None; CHANNELS])
    }

    /// Takes one for an engine of that kind; of two copy engines the one with fewer channels.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: none is free, or `owner` has too many.
    fn take(&mut self, kind: EngineKind, owner: usize) -> Result<(ChannelId, Engine)> {
        let count = |which: &dyn Fn(&Taken) -> bool| {
            self.0.iter().flatten().filter(|taken| which(taken)).count()
        };
        if count(&|taken| taken.owner == owner) >= CHANNELS_PER_FILE {
            return Err(ENOSPC);
        }
        let on = |engine: Engine| count(&|taken| taken.engine == engine);
        let engine = match kind {
            EngineKind::Compute => Engine::Compute,
            EngineKind::Copy if on(Engine::Copy1) < on(Engine::Copy0) => Engine::Copy1,
            EngineKind::Copy => Engine::Copy0,
        };
        let index = self.0.iter().position(Option::is_none).ok_or(ENOSPC)?;
        let id = ChannelId::new(u32::try_from(index)?).ok_or(ENOSPC)?;
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(Taken { engine, owner });
        }
        Ok((id, engine))
    }

    fn put(&mut self, id: ChannelId) {
        if let Some(slot) = self.0.get_mut(id.index()) {
            *slot = None;
        }
    }
}

/// A hardware channel that is ours; free again when this is dropped. By then the hardware must have forgotten it.
pub(crate) struct Slot {
    gpu: Arc<Gpu>,
    pub(crate) id: ChannelId,
    pub(crate) engine: Engine,
}

impl Slot {
    /// Takes one for `svm`.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: none is free, or the address space has too many.
    pub(crate) fn take(kind: EngineKind, svm: &Arc<Svm>) -> Result<Self> {
        let gpu = svm.gpu().clone();
        let (id, engine) = gpu.slots.lock().take(kind, Arc::as_ptr(svm).addr())?;
        Ok(Self { gpu, id, engine })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gpu.slots.lock().put(self.id);
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(mirage_slots)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_given_twice_and_then_there_is_none() {
        let mut slots = Slots::new();
        for id in 0..CHANNELS {
            let taken = slots.take(EngineKind::Compute, id);
            assert!(taken.is_ok_and(|(taken, _)| taken.index() == id));
        }
        assert!(slots.take(EngineKind::Compute, CHANNELS).is_err());
    }

    #[test]
    fn what_is_put_back_is_taken_again() -> Result {
        let mut slots = Slots::new();
        let (first, _) = slots.take(EngineKind::Compute, 1)?;
        let (second, _) = slots.take(EngineKind::Compute, 1)?;
        slots.put(first);
        assert!(first != second && slots.take(EngineKind::Copy, 1)?.0 == first);
        Ok(())
    }

    #[test]
    fn nobody_gets_more_than_the_limit() {
        let mut slots = Slots::new();
        for _ in 0..CHANNELS_PER_FILE {
            assert!(slots.take(EngineKind::Compute, 1).is_ok());
        }
        assert_eq!(slots.take(EngineKind::Copy, 1).err(), Some(ENOSPC));
        assert!(slots.take(EngineKind::Copy, 2).is_ok());
    }

    #[test]
    fn copy_channels_are_spread_over_the_engines() -> Result {
        let mut slots = Slots::new();
        let mut engine = || slots.take(EngineKind::Copy, 1).map(|(_, engine)| engine);
        assert_eq!(engine()?, Engine::Copy0);
        assert_eq!(engine()?, Engine::Copy1);
        assert_eq!(engine()?, Engine::Copy0);
        assert_eq!(engine()?, Engine::Copy1);
        Ok(())
    }
}
